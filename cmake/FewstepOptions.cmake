# SPDX-License-Identifier: Apache-2.0
# Every option of the build, one line of meaning each.
if(PROJECT_IS_TOP_LEVEL AND NOT SKBUILD)
  set(developer ON)
else()
  set(developer OFF)
endif()

option(FEWSTEP_DEVELOPER_MODE "Warnings are errors" ${developer})
option(FEWSTEP_PYTHON "Build the Python module _core" ${PROJECT_IS_TOP_LEVEL})
option(FEWSTEP_TESTS "Build the C and C++ tests" ${developer})
set(FEWSTEP_CUDA AUTO CACHE STRING
  "CUDA kernels: AUTO (where nvcc 12.4 or newer and a GPU are found), ON or OFF")
set(FEWSTEP_CUDA_ARCHS "80-real;90a-real;100-real;90-virtual" CACHE STRING
  "Machine code (-real) and PTX (-virtual) of the CUDA kernels")
set(FEWSTEP_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, such as address,undefined")

if(NOT FEWSTEP_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FEWSTEP_CUDA must be AUTO, ON or OFF, got '${FEWSTEP_CUDA}'")
endif()
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

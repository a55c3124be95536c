# SPDX-License-Identifier: Apache-2.0
# Decides whether the CUDA kernels are built (FEWSTEP_WITH_CUDA) and how.
#
# AUTO wants a GPU too: without one, the minutes that nvcc takes buy nothing here.
set(FEWSTEP_WITH_CUDA OFF)
set(oldest_nvcc 12.4)  # the first whose C++20 front end takes the headers of this library

function(fewstep_find_gpu found)
  file(GLOB devices /dev/nvidia[0-9]* /dev/dxg)
  if(devices)
    set(${found} ON PARENT_SCOPE)
  else()
    set(${found} OFF PARENT_SCOPE)
  endif()
endfunction()

if(FEWSTEP_CUDA STREQUAL "ON")
  set(FEWSTEP_WITH_CUDA ON)
elseif(FEWSTEP_CUDA STREQUAL "AUTO")
  fewstep_find_gpu(has_gpu)
  if(has_gpu)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(FEWSTEP_WITH_CUDA ON)
    endif()
  endif()
endif()

if(FEWSTEP_WITH_CUDA)
  # Before the language is enabled: it asks for a value, and takes one that it makes up otherwise.
  set(CMAKE_CUDA_ARCHITECTURES ${FEWSTEP_CUDA_ARCHS})
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS oldest_nvcc)
    if(FEWSTEP_CUDA STREQUAL "ON")
      message(FATAL_ERROR "FEWSTEP_CUDA=ON needs nvcc ${oldest_nvcc} or newer, "
        "got ${CMAKE_CUDA_COMPILER_VERSION}")
    endif()
    set(FEWSTEP_WITH_CUDA OFF)
  endif()
endif()

if(FEWSTEP_WITH_CUDA)
  find_package(CUDAToolkit REQUIRED)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
    list(FILTER CMAKE_CUDA_ARCHITECTURES EXCLUDE REGEX "^1[0-9][0-9]")  # unknown to it
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
endif()
list(JOIN CMAKE_CUDA_ARCHITECTURES " " architectures)
if(FEWSTEP_WITH_CUDA)
  message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, ${architectures}")
else()
  message(STATUS "CUDA kernels: none (FEWSTEP_CUDA=${FEWSTEP_CUDA})")
endif()

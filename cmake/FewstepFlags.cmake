# SPDX-License-Identifier: Apache-2.0
# fewstep_flags: what every object is compiled with. fewstep_kernel_flags: what CPU kernels add.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
find_package(Threads REQUIRED)

add_library(fewstep_flags INTERFACE)
set(compile_flags
  -Wall -Wextra -Wshadow
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>  # GCC 12 warns of std::string's own copies (PR 105651)
  # A product and a sum are fused only where the source says fma: every ISA gives the same bits.
  -ffp-contract=off
)
if(FEWSTEP_DEVELOPER_MODE)
  list(APPEND compile_flags -Werror)
endif()
if(FEWSTEP_SANITIZE)
  list(APPEND compile_flags
    -fsanitize=${FEWSTEP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(fewstep_flags INTERFACE -fsanitize=${FEWSTEP_SANITIZE})
endif()
# -fmad=false, nvcc's word for -ffp-contract=off, stands with the kernels (FewstepFamily.cmake).
target_compile_options(fewstep_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${compile_flags}>")
if(FEWSTEP_WITH_CUDA)
  target_compile_definitions(fewstep_flags INTERFACE FEWSTEP_WITH_CUDA)
endif()

set(FEWSTEP_ISA_FLAGS_scalar "")
set(FEWSTEP_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(FEWSTEP_ISA_FLAGS_avx512
  -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
set(FEWSTEP_ISA_FLAGS_avx512_vnni ${FEWSTEP_ISA_FLAGS_avx512} -mavx512vnni)
set(FEWSTEP_ISA_FLAGS_avx512_bf16 ${FEWSTEP_ISA_FLAGS_avx512_vnni} -mavx512bf16)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(FEWSTEP_X86 ON)
  set(FEWSTEP_ISAS scalar avx2 avx512)
  target_compile_definitions(fewstep_flags INTERFACE FEWSTEP_X86_KERNELS)
else()
  set(FEWSTEP_ISAS scalar)
endif()

function(fewstep_configure_library target)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:fewstep_flags> Threads::Threads ${CMAKE_DL_LIBS})
  if(FEWSTEP_WITH_CUDA)
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:CUDA::cudart_static>)
  endif()
  target_link_options(${target} PRIVATE
    -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/fewstep.map
    -Wl,--exclude-libs,ALL -Wl,-z,now
  )
  if(NOT FEWSTEP_SANITIZE)
    target_link_options(${target} PRIVATE -Wl,--no-undefined)
  endif()
  set_property(TARGET ${target} PROPERTY LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/fewstep.map)
  # A wheel cannot hold the links that a versioned name needs.
  if(NOT SKBUILD)
    set_target_properties(${target} PROPERTIES
      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  endif()
endfunction()

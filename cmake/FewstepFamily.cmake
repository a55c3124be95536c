# SPDX-License-Identifier: Apache-2.0
# fewstep_add_family(<family> [OPS <op>...] [AVX512_VNNI_OPS <op>...] [AVX512_BF16_OPS <op>...]
#   [SOURCES <file>...])
#
# csrc/<family>/<op>.cc and SOURCES join the library as they are; csrc/<family>/cpu/<op>.cc is
# compiled once per ISA with -DFEWSTEP_ISA=<isa>, in objects of their own so that no code of a wide
# ISA can end up in a baseline function. csrc/<family>/cuda/<op>.cu is compiled by nvcc where CUDA is
# built, and always by the C++ compiler as ISA cuda_on_host, which walks blocks and threads in loops.
# AVX512_VNNI_OPS and AVX512_BF16_OPS, parts of OPS, have a kernel of their own for that ISA.
function(fewstep_add_family family)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "OPS;AVX512_VNNI_OPS;AVX512_BF16_OPS;SOURCES")
  set(folder ${PROJECT_SOURCE_DIR}/csrc/${family})
  foreach(source IN LISTS arg_SOURCES)
    target_sources(fewstep PRIVATE ${folder}/${source})
  endforeach()
  foreach(op IN LISTS arg_OPS)
    target_sources(fewstep PRIVATE ${folder}/${op}.cc)
  endforeach()
  set(optimisation -O3)
  if(FEWSTEP_SANITIZE)
    set(optimisation -O1)  # instrumented kernels take ten times as long to compile at -O3
  endif()
  foreach(isa IN LISTS FEWSTEP_ISAS)
    fewstep_add_cpu_kernels(${family} ${isa} ${optimisation} ${arg_OPS})
  endforeach()
  if(FEWSTEP_X86)
    fewstep_add_cpu_kernels(${family} avx512_vnni ${optimisation} ${arg_AVX512_VNNI_OPS})
    fewstep_add_cpu_kernels(${family} avx512_bf16 ${optimisation} ${arg_AVX512_BF16_OPS})
  endif()
  foreach(op IN LISTS arg_OPS)
    fewstep_add_cuda_kernel(${family} ${op} ${optimisation})
  endforeach()
endfunction()

function(fewstep_add_cpu_kernels family isa optimisation)
  set(files ${ARGN})
  if(NOT files)
    return()
  endif()
  list(TRANSFORM files PREPEND ${PROJECT_SOURCE_DIR}/csrc/${family}/cpu/)
  list(TRANSFORM files APPEND .cc)
  set(kernels fewstep_${family}_${isa})
  add_library(${kernels} OBJECT ${files})
  target_include_directories(${kernels} PRIVATE
    ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/csrc/include)
  target_link_libraries(${kernels} PRIVATE fewstep_flags)
  target_compile_definitions(${kernels} PRIVATE FEWSTEP_ISA=${isa})
  target_compile_options(${kernels} PRIVATE
    ${optimisation} -fno-math-errno ${FEWSTEP_ISA_FLAGS_${isa}})
  target_sources(fewstep PRIVATE $<TARGET_OBJECTS:${kernels}>)
endfunction()

function(fewstep_add_cuda_kernel family op optimisation)
  # A file has one language in a folder, so the C++ compiler gets a file that includes it.
  set(on_host ${CMAKE_CURRENT_BINARY_DIR}/cuda_on_host/${family}_${op}.cc)
  file(CONFIGURE OUTPUT ${on_host} CONTENT "#include \"${family}/cuda/${op}.cu\"\n")
  set(sources ${on_host})
  if(FEWSTEP_WITH_CUDA)
    list(APPEND sources ${PROJECT_SOURCE_DIR}/csrc/${family}/cuda/${op}.cu)
  endif()
  foreach(source IN LISTS sources)
    set(kernels fewstep_${family}_${op}_cuda)
    set(flags -fmad=false --expt-relaxed-constexpr -lineinfo -Xfatbin=-compress-all)
    set(isa cuda)
    if(source STREQUAL on_host)
      string(APPEND kernels _on_host)
      set(flags ${optimisation} -fno-math-errno)
      set(isa cuda_on_host)
    endif()
    add_library(${kernels} OBJECT ${source})
    target_include_directories(${kernels} PRIVATE
      ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/csrc/include)
    target_link_libraries(${kernels} PRIVATE fewstep_flags)
    target_compile_definitions(${kernels} PRIVATE FEWSTEP_ISA=${isa})
    target_compile_options(${kernels} PRIVATE ${flags})
    target_sources(fewstep PRIVATE $<TARGET_OBJECTS:${kernels}>)
  endforeach()
endfunction()

# SPDX-License-Identifier: Apache-2.0
# fewstep_add_family(<family> [OPS <op>...] [SOURCES <file>...])
#
# csrc/<family>/<op>.cc and SOURCES join the library as they are; csrc/<family>/cpu/<op>.cc is
# compiled once per ISA with -DFEWSTEP_ISA=<isa>, in objects of their own so that no code of a wide
# ISA can end up in a baseline function.
function(fewstep_add_family family)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "OPS;SOURCES")
  set(folder ${PROJECT_SOURCE_DIR}/csrc/${family})
  foreach(source IN LISTS arg_SOURCES)
    target_sources(fewstep PRIVATE ${folder}/${source})
  endforeach()
  foreach(op IN LISTS arg_OPS)
    target_sources(fewstep PRIVATE ${folder}/${op}.cc)
  endforeach()
  if(NOT arg_OPS)
    return()
  endif()
  set(optimisation -O3)
  if(FEWSTEP_SANITIZE)
    set(optimisation -O1)  # instrumented kernels take ten times as long to compile at -O3
  endif()
  foreach(isa IN LISTS FEWSTEP_ISAS)
    set(kernels fewstep_${family}_${isa})
    list(TRANSFORM arg_OPS PREPEND ${folder}/cpu/ OUTPUT_VARIABLE files)
    list(TRANSFORM files APPEND .cc)
    add_library(${kernels} OBJECT ${files})
    target_include_directories(${kernels} PRIVATE
      ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/csrc/include)
    target_link_libraries(${kernels} PRIVATE fewstep_flags)
    target_compile_definitions(${kernels} PRIVATE FEWSTEP_ISA=${isa})
    target_compile_options(${kernels} PRIVATE
      ${optimisation} -fno-math-errno ${FEWSTEP_ISA_FLAGS_${isa}})
    target_sources(fewstep PRIVATE $<TARGET_OBJECTS:${kernels}>)
  endforeach()
endfunction()

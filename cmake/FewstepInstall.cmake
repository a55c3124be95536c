# SPDX-License-Identifier: Apache-2.0
# Headers, library and the CMake package; in a wheel everything lies inside the Python package.
include(CMakePackageConfigHelpers)
if(SKBUILD)
  set(libdir lib)
  set(includedir include)
  set(cmakedir lib/cmake/fewstep)
else()
  include(GNUInstallDirs)
  set(libdir ${CMAKE_INSTALL_LIBDIR})
  set(includedir ${CMAKE_INSTALL_INCLUDEDIR})
  set(cmakedir ${libdir}/cmake/fewstep)
endif()

install(TARGETS fewstep EXPORT fewstepTargets
  LIBRARY DESTINATION ${libdir} INCLUDES DESTINATION ${includedir})
install(DIRECTORY csrc/include/fewstep DESTINATION ${includedir} FILES_MATCHING PATTERN "*.h*")
install(EXPORT fewstepTargets NAMESPACE fewstep:: DESTINATION ${cmakedir})
configure_package_config_file(cmake/fewstepConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/fewstepConfig.cmake INSTALL_DESTINATION ${cmakedir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/fewstepConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/fewstepConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/fewstepConfigVersion.cmake
  DESTINATION ${cmakedir})

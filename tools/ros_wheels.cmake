# Repairs the CMake exports of ROS 2 wheels; a ROS 2 from the system needs none of this.
#
# Their imported targets *__rosidl_generator_py name an include folder of the machine that built
# the wheel, and CMake stops at a non-existent path. The folder holds nothing a message package
# needs, so the property is cleared once all packages are found, before CMake checks it.
# Use: cmake -DCMAKE_PROJECT_INCLUDE=<this file>

function(aliked_clear_foreign_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    if(target MATCHES "__rosidl_generator_py$")
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL aliked_clear_foreign_includes)

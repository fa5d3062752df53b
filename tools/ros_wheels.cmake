# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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

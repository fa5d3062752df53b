// Copyright 2026 aliked_ros maintainers
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Stands in for OpenCV's header where it is not installed: of its names only those, with only the
// meaning, that aliked_examples/feature_frame.hpp uses.
#pragma once

#include <vector>

#define CV_32F 5

namespace cv
{

struct Point2f
{
  float x, y;
};

struct KeyPoint
{
  KeyPoint(float x, float y, float size, float angle, float response, int octave)
  : pt{x, y}, size(size), angle(angle), response(response), octave(octave) {}

  Point2f pt;
  float size, angle, response;
  int octave;
};

struct Mat
{
  void create(int height, int width, int)
  {
    rows = height;
    cols = width;
    values.resize(static_cast<std::size_t>(height) * width);
  }

  template<typename T>
  T * ptr() {return values.data();}

  int rows = 0, cols = 0;
  std::vector<float> values;
};

}  // namespace cv

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
// meaning, that the headers of aliked_examples use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#define CV_8U 0
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
  Mat() = default;
  Mat(int height, int width, int type) {create(height, width, type);}

  void create(int height, int width, int type)
  {
    rows = height;
    cols = width;
    type_ = type;
    bytes.resize(static_cast<std::size_t>(height) * width * elemSize());
  }

  template<typename T>
  T * ptr(int row = 0) {return reinterpret_cast<T *>(bytes.data() + row * cols * elemSize());}
  template<typename T>
  const T * ptr(int row = 0) const {return const_cast<Mat *>(this)->ptr<T>(row);}

  bool empty() const {return bytes.empty();}
  int type() const {return type_;}
  std::size_t elemSize() const {return type_ == CV_8U ? 1 : 4;}
  void release() {*this = Mat();}
  void copyTo(Mat & other) const {other = *this;}
  const Mat & getMat() const {return *this;}

  int rows = 0, cols = 0, type_ = CV_8U;
  std::vector<std::uint8_t> bytes;
};

typedef const Mat & InputArray;
typedef Mat & OutputArray;

}  // namespace cv

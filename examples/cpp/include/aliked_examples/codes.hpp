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

// The codes of aliked_ros.frontend.codes in C++: 256 bits of a float descriptor.
//
// Needed only where a front-end publishes floats: with descriptor_encoding binary256 the messages
// have the codes already. Bits can differ from Python's where a projection is zero up to rounding.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace aliked_examples
{

constexpr std::size_t kCodeBytes = 32;
using Code = std::array<std::uint8_t, kCodeBytes>;

/// SIGNS of aliked_ros/frontend/codes.py: bit i, counted from each word's lowest, 1 = minus.
constexpr std::array<std::uint64_t, 4> kSigns{
  0x243F6A8885A308D3u, 0x13198A2E03707344u, 0xA4093822299F31D0u, 0x082EFA98EC4E6C89u};

/// The code of one descriptor of D elements; throws std::invalid_argument unless D is 64 or 128.
inline Code encode(const float * descriptor, std::size_t dimension)
{
  if (dimension != 64 && dimension != 128) {
    throw std::invalid_argument(
            "a descriptor has " + std::to_string(dimension) + " elements; codes take 64 or 128");
  }
  Code code{};
  std::vector<float> block(dimension);
  for (std::size_t first = 0; first < 8 * kCodeBytes; first += dimension) {
    for (std::size_t j = 0; j < dimension; ++j) {
      const bool minus = kSigns[(first + j) / 64] >> (first + j) % 64 & 1u;
      block[j] = minus ? -descriptor[j] : descriptor[j];
    }
    // The Walsh-Hadamard transform, in natural order: the product with the Hadamard matrix.
    for (std::size_t half = 1; half < dimension; half *= 2) {
      for (std::size_t j = 0; j < dimension; ++j) {
        if ((j & half) == 0) {
          const float a = block[j], b = block[j + half];
          block[j] = a + b;
          block[j + half] = a - b;
        }
      }
    }
    for (std::size_t j = 0; j < dimension; ++j) {
      const std::size_t bit = first + j;
      code[bit / 8] = static_cast<std::uint8_t>(code[bit / 8] | (block[j] > 0) << bit % 8);
    }
  }
  return code;
}

/// The Hamming distance of two codes, in bits.
inline int distance(const std::uint8_t * a, const std::uint8_t * b)
{
  int bits = 0;
  for (std::size_t i = 0; i < kCodeBytes; i += 8) {
    std::uint64_t one, two;
    std::memcpy(&one, a + i, 8);
    std::memcpy(&two, b + i, 8);
    for (std::uint64_t rest = one ^ two; rest != 0; rest &= rest - 1) {
      ++bits;
    }
  }
  return bits;
}

}  // namespace aliked_examples

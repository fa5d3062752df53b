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

// Reads rows of N floats (the argument) from standard input and writes their codes.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "aliked_examples/codes.hpp"

int main(int, char ** argv)
{
  std::vector<float> row(std::strtoul(argv[1], nullptr, 10));
  while (std::fread(row.data(), sizeof(float), row.size(), stdin) == row.size()) {
    const auto code = aliked_examples::encode(row.data(), row.size());
    if (aliked_examples::distance(code.data(), code.data()) != 0) {
      return 1;
    }
    std::fwrite(code.data(), 1, code.size(), stdout);
  }
  return 0;
}

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

// Calls OrbExtractor once for an image of WIDTH x HEIGHT at SECONDS; the message FILE is added DELAY
// milliseconds later, by another thread. The mask leaves out x < MASKED. Prints JSON.
//
//   extract FILE WIDTH HEIGHT SECONDS LAP_BEGIN LAP_END DELAY MASKED
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "aliked_examples/orb_extractor.hpp"
#include "frame_file.hpp"

template<typename Values>
void print(const char * name, const Values & values, const char * format)
{
  std::printf(", \"%s\": [", name);
  const char * comma = "";
  for (const auto & value : values) {
    std::printf("%s", comma);
    std::printf(format, value);
    comma = ", ";
  }
  std::printf("]");
}

int main(int, char ** argv)
{
  using aliked_msgs::msg::FeatureFrame;
  const int width = std::atoi(argv[2]), height = std::atoi(argv[3]);
  aliked_examples::OrbExtractor<FeatureFrame> extractor(std::chrono::milliseconds(400));
  std::thread subscription([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(argv[7])));
      extractor.add(std::make_shared<FeatureFrame>(read_frame(argv[1])));
    });
  int status = 0;
  try {
    const cv::Mat image(height, width, CV_8U);
    cv::Mat mask(height, width, CV_8U), descriptors;
    for (int y = 0; y < height; ++y) {
      std::memset(mask.ptr<std::uint8_t>(y), 255, width);
      std::memset(mask.ptr<std::uint8_t>(y), 0, std::atoi(argv[8]));
    }
    std::vector<int> lapping{std::atoi(argv[5]), std::atoi(argv[6])};
    std::vector<cv::KeyPoint> keypoints;
    extractor.expect(std::atof(argv[4]));
    const int outside = extractor(image, mask, keypoints, descriptors, lapping);
    std::vector<float> x, angles, factors = extractor.GetScaleFactors();
    std::vector<int> octaves;
    for (const auto & keypoint : keypoints) {
      x.push_back(keypoint.pt.x);
      angles.push_back(keypoint.angle);
      octaves.push_back(keypoint.octave);
    }
    std::printf(
      "{\"outside\": %d, \"missed\": %zu, \"levels\": %d, \"factor\": %g", outside,
      extractor.missed(), extractor.GetLevels(), extractor.GetScaleFactor());
    print("x", x, "%.9g");
    print("angles", angles, "%g");
    print("octaves", octaves, "%d");
    print("factors", factors, "%g");
    print("variances", extractor.GetScaleSigmaSquares(), "%g");
    print("right_x", extractor.features().right_x, "%.9g");
    print("ids", extractor.features().track_ids, "%lu");
    std::printf(", \"columns\": %d, \"descriptors\": \"", descriptors.cols);
    for (int i = 0; i < descriptors.rows; ++i) {
      for (int j = 0; j < descriptors.cols; ++j) {
        std::printf("%02x", descriptors.ptr<std::uint8_t>(i)[j]);
      }
    }
    std::printf("\"}\n");
    // ORB-SLAM2's call gives the same keypoints.
    std::vector<cv::KeyPoint> again;
    extractor(image, mask, again, descriptors);
    status = again.size() == keypoints.size() ? 0 : 2;
  } catch (const std::exception & error) {
    std::fprintf(stderr, "%s\n", error.what());
    status = 1;
  }
  subscription.join();
  return status;
}

#!/usr/bin/env bash
# Remakes requirements/*.txt from the *.in files beside them: `make lock`; versions that are
# locked stay as long as they fit (`make lock UPGRADE=1`: the newest ones).
set -euo pipefail
cd "$(dirname "$0")/../requirements"
uv=${UV:-uv}

lock() {  # NAME, then more arguments for uv
  "$uv" pip compile --quiet --universal --no-annotate --no-emit-index-url --no-emit-find-links \
    --only-binary :all: --no-binary empy --custom-compile-command "make lock" ${UPGRADE:+--upgrade} \
    --output-file "$1.txt" "$1.in" "${@:2}" > /dev/null
}

for name in test demo view evaluate train docs gpu fleet; do
  lock "$name" --python-version 3.10 $([ "$name" = test ] || echo --constraint test.txt)
  # pyproject.toml names the one platform and the newest Python that all of it is for; and PyTorch's
  # CUDA build pins the libraries it needs itself, which its CPU build does without
  sed -E -i -e "s/ and platform_machine == 'x86_64' and sys_platform == 'linux'//" \
    -e "s/ and python_full_version < '3.15'//; s/ ; python_full_version < '3.15'$//" \
    -e '/^(nvidia|cuda)-/d' "$name.txt"
done

# A robot's ROS is its system's; aarch64 too.
lock robot --python-version 3.10 --no-config
lock gpu_jetson --python-version 3.10 --no-config --no-binary pycuda --constraint robot.txt \
  --overrides <(echo "openvino ; python_version < '3'")
sed -i -e "/sys_platform == 'win32'/d" robot.txt gpu_jetson.txt

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

"""What can go wrong, as exceptions whose text names the thing, its value and the remedy."""


class AlikedError(Exception):
    """Base of every error this package raises on purpose; its text is fit to show to a user."""


class ImageError(AlikedError):
    """An image that cannot be processed (size, type, encoding, truncated data)."""


class WeightsError(AlikedError):
    """A checkpoint that is missing, unreadable, or not the one its checksum promises."""


class ModelError(AlikedError):
    """A network's graph that is missing, damaged, or cannot be made or loaded here."""


class BackendError(AlikedError):
    """An inference backend that cannot run on this machine."""


class SourceError(AlikedError):
    """A folder, video, camera or recording that cannot be read."""


class ConfigurationError(AlikedError):
    """A setting outside its range, or two settings that exclude each other."""


class OutputError(AlikedError):
    """A result that cannot be written (no permission, full disk)."""

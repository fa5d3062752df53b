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

"""From image to tracks: extractor, matcher, tracker, and the pipeline that joins them."""

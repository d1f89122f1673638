"""A body becomes a call, and an answer: what every lane brings its guest's bodies to."""

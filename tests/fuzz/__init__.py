"""What is parsed, fed with whatever coverage leads to: `targets` by name, a small kept corpus for each, and the test.

`python -m fuzz.run NAME` runs one with atheris, the extra `fuzz`; what breaks it is put beside the corpus by hand.
"""

"""Conversion to and from other formats; the output is verified before it is moved to its destination."""

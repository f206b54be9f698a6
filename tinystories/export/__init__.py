"""Conversion to and from other formats; each conversion is verified before its output appears."""

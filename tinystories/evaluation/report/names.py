"""File names of a report, and the marker in its page."""

JSON, HTML = "report.json", "report.html"
GENERATOR = "tinystories evaluate"  # the page's `meta name="generator"`, which marks the files of this package

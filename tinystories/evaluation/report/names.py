"""Names in a report that its writers and its readers share."""

JSON, HTML = "report.json", "report.html"
GENERATOR = "tinystories evaluate"  # the page's `meta name="generator"`, which marks the files of this package

"""Stories over HTTP: `tinystories serve RUN`.

`settings.py` what a user can choose · `text.py` tokens to text · `batch.py` many stories in one forward pass ·
`engine.py` who is served when · `api.py` and `completions.py` the HTTP side · `guards.py` limits and headers ·
`run.py` the process · `page.html` the page. The engine and what is below it know nothing of HTTP.
"""

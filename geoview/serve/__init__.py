"""Answers over HTTP, and the page that asks for them.

`server` listens, `guard` says who may ask, `uploads` what may be sent, `requests` what may be asked; `worker` locates
the photos of all that wait, from the commit of the index that `generations` holds open; `pictures` cuts chips and
tiles, `answers` says what comes back, `metrics` what was done, and `app` puts these together. FastAPI is used nowhere
else.
"""

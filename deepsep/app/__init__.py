"""The application: one page in the browser, on which songs are dropped, separated and listened to.

`serve.serve` runs it. The server (`routes`, `guard`, `uploads`, `downloads`) never loads torch. It keeps the songs in
SQLite (`store`), hands them to a process of their own one at a time (`jobs`, `worker`), and tells the page what
happens. What the worker separates goes through the same functions as on the command line, so the files are the same;
on the way `listening` puts the sound aside for the page, whose player is that of `output.report`.
May import everything but the command line, which imports this on first use.
"""

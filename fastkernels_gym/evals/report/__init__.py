"""`fk-gym report`: a run as one HTML page that needs nothing but a browser.

page.py           the page: what it is made of, and how hostile text is kept from acting
attempts.py       the task table and what opens behind each of its rows
source.py         kernels: highlighted, compared
plots.py          figures as SVG
report.html.j2    the page's structure
report.css, .js   its looks and manners
"""

from fastkernels_gym.evals.report.page import write_report

__all__ = ["write_report"]

"""The operator's page as HTML: pure functions of what the daemon knows about itself at one moment.

One glance shall tell whether messages flow, and if not, since when and what to do. What is here draws; the listener
(adapters/operators_page.py) serves it, with `page.css` and `page.js` beside it.
"""

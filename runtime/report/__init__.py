"""A run as one page: curves, samples, data, decisions, how to use the file. Self-contained: no network.

gather.py   what a run's folder holds, as data; nothing is loaded or computed anew
charts.py   curves as SVG that can be looked at without scripts and zoomed with them
page.py     the page, by jinja2: everything escaped, no script but our own allowed to run
watch.py    the same page while the run goes on, on the loopback address
compare.py  several runs side by side
"""

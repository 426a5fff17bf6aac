"""`make bench`: this project and the published way side by side, on one machine, in one run.

All move the same made slides from a stand-in GDC that is at most as slow as the real one: 100 ms a
request, 2.6 MB/s a connection, 0.2 s more for a Deep Zoom tile. Whole files at that rate are the
published sampler's 11 h for 100 slides of a gigabyte. Its 2 h for their tiles would be 4 s a tile,
so the comparison with tiles errs on the published side.

`python -m tests.bench [PART ...]` takes 25 minutes for all parts and then writes RESULTS.md.
`--before DIR` measures another version's source beside this one, by its `.venv` if it has one.
`--quick` takes about two minutes, on small slides, and only prints. Slides are kept in
.build/bench-slides. The parts `carrying` and `catalogue` need 27 GB where temporary files are.
"""

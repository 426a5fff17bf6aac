"""`make bench`: this project and the published way side by side, on one machine, in one run.

All move the same made slides from a stand-in GDC that is as slow as the real one was seen to be,
or less: 100 ms a request, 2.6 MB/s a connection, 0.2 s more for a Deep Zoom tile. Whole files at
that rate are the published sampler's 11 h for 100 slides of a gigabyte; its 2 h for their tiles
would be 4 s a tile, so that the comparison with tiles errs on the published side.

`python -m tests.bench` takes about ten minutes and writes RESULTS.md beside this file;
`--quick` takes about one, on small slides, and only prints. Slides are kept in .build/bench-slides.
"""

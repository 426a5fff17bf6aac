"""Build the gallery: static pages that show the mirror's slides in any browser, without a server.

`gallery/` holds three pages, their style and scripts, `index.js` (what the grid
filters and sorts by), and two packs for every fifty slides of a project: their
facts and their thumbnails. Few files, because inodes are scarce on clusters;
scripts rather than JSON, because a page opened from disk may load no other
data. A page of one slide is `slide.html` with the slide's name as fragment.
"""

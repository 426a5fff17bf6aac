"""The command line: what each command's --help shows, which is also what is parsed.

A text has paragraphs: a summary, details, arguments and options, and examples. `add_arguments`
in `parser` reads the arguments and options; those below a line that ends in a colon are a group.
"""

from __future__ import annotations

MODULES = {
    "update": ("update", "refresh", "sample", "fetch"),
    "exclude": ("exclude", "include"),
    "status": ("status", "changes", "show", "query"),
    "repair": ("rebuild",),
    "transfer": ("export", "import"),
    "help": ("help", "introduction", "licenses", "completion"),
}
"""Modules of this package and their commands; each other command has one of its own name."""

HEADINGS = {
    "init": "fill a mirror",
    "status": "look at it",
    "verify": "keep it whole",
    "lock": "carry and show it",
    "get": "without a mirror",
    "help": "help",
}
"""Headings in the program's help, by the first command below each."""

REMEDIES = {
    ("init", "--magnification"): "Give --mpp 0.5 for 20×.",
    ("verify", "--fix"): "Did you mean --repair?",
    ("exclude", "--list"): "List them by: tcgamirror query 'select * from exclusions'.",
    ("import", ""): "Did you mean --mirror {}?",
    ("kind", "frozen"): "Did you mean tissue? Its slides are frozen",
}
"""Remedies for arguments that a command lacks, and for choices that an option lacks.

"" stands for an argument that is not an option.
"""

SHELLS = ("bash", "zsh", "fish")

CHOICES = {
    "KIND": ("trident", "slide2vec", "clam", "slideflow", "stamp", "qupath", "mirror"),
    "SYSTEM": ("cron", "systemd", "slurm"),
    "SHELL": SHELLS,
}
"""Choices of arguments, by their names."""

_JSON = "--json  print the result as one JSON line"

_VIA = "--via SOURCES  sources of a slide, in the order to try them (default: range,tiles,whole)"

_ADDRESSES = """\
--api URL     API of another GDC (default: https://api.gdc.cancer.gov)
--tiles URL   its tile server (default: that of the GDC)
--bucket URL  open-data bucket, or none (default: that of TCGA; none with another GDC)"""

_SHRINK = """\
--accept-shrink  accept a listing that lacks more than a tenth of the slides listed before"""

_SLIDES = """\
--slides N  raise the number of slides in the settings to N, or all, for good"""

_LIMITS = """\
--limit N          fetch at most N slides (default: all that are due)
--time-limit TIME  start no slide after this time, such as 90s, 30m or 2h (default: none)
--rate BYTES       bytes per second, such as 5M, or unlimited (default: that of the settings)
--max-bytes BYTES  start no slide after this many bytes, such as 20G (default: none)
--retry-failed     retry failed slides now (default: after an hour, then days, up to 30)
--dask SCHEDULER   have the workers of a Dask scheduler fetch, or local:N for N processes"""

_LOG = "--log FILE  append events to FILE as JSON lines"

_NAMES = """\
[SLIDE...]   barcode, file name or file_id
--from FILE  names, one a line, or a table whose first column of such names counts; - is standard
             input; repeat it for several"""

COMMANDS = {
    "init": f"""\
make a mirror

The choices are kept in DIR/tcgamirror.toml, which you may edit. The sample's plan (which
slides) and the target (which images) are fixed; another plan or target needs another
mirror.

[DIR]  the mirror's directory, made if it is missing (default: that of --mirror or TCGAMIRROR, or
       the current directory if it is empty)

images (give one of --mpp and --max-size):
--mpp X        the whole slide at exactly X µm per pixel (20× is 0.5, 40× is 0.25)
--max-size PX  the whole slide, halved until its longer side is at most PX pixels
--resample exact|fast|native
    exact (default): the best pixels; fast: less time, nearly the same pixels; native: the
    unchanged pixels of the nearest level that is fine enough
--format png|jpeg|tiff
    default: png

slides:
--slides N          number of slides, or all (default: 100; of a manifest all)
--seed S            another seed samples other slides (default: 0)
--order stable|shuffle
    stable (default): a larger sample contains the smaller one, also in a new release; shuffle:
    Python's random.shuffle over the listing
--by none|project_id|primary_site
    take from the projects or sites in turn (default: none)
--kind diagnostic|tissue|all
    diagnostic (fixed), tissue (frozen), or all (default: diagnostic; of a manifest all)
--project ID        only slides of this project, such as TCGA-BRCA or BRCA; repeat it for several
                    (default: all projects)
--cases FILE        only these cases, slides or file_ids: one a line, or a table whose first column
                    of such names counts; - is standard input; repeat it for several
--sample-type TYPE  only slides of this type, such as 'Primary Tumor' or 01; repeat it for several
--disease NAME      only slides of this disease_type, as the catalogue has it; repeat it for several
--one-per-case      only the first slide of each case in the order
--manifest FILE     list slides from a GDC manifest instead of the GDC
--lock FILE         exactly the slides of a lock file, and its images unless others are asked for
                    (see tcgamirror lock --help)

fetching:
--workers N         slides in flight, at most 64 (default: as many as keep the cores busy)
--rate BYTES        limit of bytes per second, such as 5M (default: none)
--work-limit BYTES  limit of disk space for partial downloads, such as 20G (default: none)
{_VIA}
{_ADDRESSES}

  tcgamirror init tcga --slides 100 --mpp 15
  tcgamirror init breast --slides all --project TCGA-BRCA --max-size 2048
  tcgamirror init paper --manifest gdc_manifest.txt --order shuffle --seed 42 --mpp 15
  tcgamirror init again --lock sample.lock""",
    "update": f"""\
refresh the listing, fill up the sample and fetch images

Run it again after any interruption: finished slides are kept. Run it every night for new
releases. Ctrl-C finishes the slides in flight; pressed again, it stops at once.

{_SHRINK}
{_SLIDES}
{_LIMITS}
--dry-run  print what would be fetched; change nothing
{_LOG}
{_JSON}

  tcgamirror --mirror tcga update
  tcgamirror --mirror tcga update --time-limit 2h --retry-failed
  tcgamirror --mirror tcga update --slides 200
  tcgamirror --mirror tcga update --dry-run""",
    "refresh": f"""\
only the first step: read the GDC's listing

{_SHRINK}
--force  read the listing even if the release is the same
{_LOG}
{_JSON}

  tcgamirror --mirror tcga refresh
  tcgamirror --mirror tcga refresh --accept-shrink""",
    "sample": f"""\
only the second step: fill up the sample from the listing

--slides raises the number of slides in DIR/tcgamirror.toml for good. Sampled slides stay.

{_SLIDES}
{_LOG}
{_JSON}

  tcgamirror --mirror tcga sample --slides 200""",
    "fetch": f"""\
only the third step: fetch the images of sampled slides

--shard fetches one of N parts of the sample, while other processes or machines fetch the
others. Its records wait in DIR/work/shards for the next command that writes.

--shard K/N        fetch part K of N, K from 1
{_LIMITS}
{_LOG}
{_JSON}

  tcgamirror --mirror tcga fetch --limit 10
  tcgamirror --mirror tcga fetch --retry-failed
  tcgamirror --mirror tcga fetch --shard 3/8""",
    "exclude": f"""\
leave slides out, now and later

SLIDE is the barcode of a case or sample (all of its slides) or of a slide, a file name or a
file_id; also of slides that are not sampled. Their images are removed, and no command brings
them back. An excluded slide keeps its place in the sample: the next slide takes it only by
--replace. Names without a slide are listed on stderr; without any slide the exit code is 2.

{_NAMES}
--reason TEXT  kept in the catalogue (default: no reason given)
--keep         leave the images in their places
--replace      raise slides in the settings, and sample as many of the next slides
{_JSON}

  tcgamirror --mirror tcga exclude TCGA-3C-AALI-01Z-00-DX1 --reason "pen marks"
  tcgamirror --mirror tcga exclude --from penmarks.csv --replace
  tcgamirror --mirror tcga query "select * from exclusions\"""",
    "include": f"""\
take exclusions back

The next update fetches the images again, but for those that exclude --keep kept.

{_NAMES}
{_JSON}

  tcgamirror --mirror tcga include TCGA-3C-AALI-01Z-00-DX1
  tcgamirror --mirror tcga include --from penmarks.csv""",
    "status": """\
show counts, bytes, data release and the last runs

--json  print one JSON object

  tcgamirror --mirror tcga status
  tcgamirror --mirror tcga status --json | jq .pending""",
    "changes": """\
show how each data release changed the listing

The first listing is shown in numbers only; --json names every slide.

--since RELEASE  only releases after this one, such as 45
--json           print one JSON list

  tcgamirror --mirror tcga changes
  tcgamirror --mirror tcga changes --since 45.0""",
    "show": """\
show everything recorded about one slide

SLIDE   file_id, file name or barcode
--json  print one JSON object

  tcgamirror --mirror tcga show TCGA-3C-AALI-01Z-00-DX1
  tcgamirror --mirror tcga show TCGA-3C-AALI --json""",
    "query": """\
run read-only SQL on the catalogue

The view mirror has a row for each sampled slide.

[SQL]     one statement
--schema  list all views, tables and columns with units
--format table|csv|json=table
    way of printing

  tcgamirror --mirror tcga query "select project_id, count(*), avg(mpp_x) from mirror group by 1"
  tcgamirror --mirror tcga query "select file_name, error from mirror where status = 'failed'"
  tcgamirror --mirror tcga query "select * from mirror" --format csv > mirror.csv
  tcgamirror --mirror tcga query --schema""",
    "table": """\
print the images as a table for another program

tcgamirror help table tells how to call each program with its table. Slides without an
image are left out, and those for which the program's columns are unknown: stderr counts
these. FILE is replaced if it is an older table of this kind, no other file is.

kinds:
  trident    TRIDENT's --custom_list_of_wsis
  slide2vec  its manifest
  clam       CLAM's list of slides; with --label its dataset
  slideflow  its annotations
  stamp      STAMP's slide table; with --label its clini table
  qupath     a script that sets the pixel sizes
  mirror     the whole view mirror, slides without an image too

KIND            kind of table
--where SQL     condition on the views mirror and labels, such as "mpp_x < 2"
--label COLUMN  column to learn, for clam, slideflow and stamp
--output FILE   file to write (default: standard output)

  tcgamirror --mirror tcga table trident --output wsis.csv
  tcgamirror --mirror tcga table clam --label tumor_grade --where "kind = 'diagnostic'"
  tcgamirror --mirror tcga table mirror > mirror.csv""",
    "verify": f"""\
check every image against the catalogue

Reads every image from the beginning and compares its digest, size and dimensions. Takes no
lock without --repair.

--quick            compare only names and sizes of files
--decode           also decode every pixel of every image
--sample N         check only N images, other ones every day (UTC)
--repair           fetch damaged and missing images again
--time-limit TIME  stop after this time, such as 2h (default: none)
{_JSON}

  tcgamirror --mirror tcga verify
  tcgamirror --mirror tcga verify --repair
  tcgamirror --mirror tcga verify --sample 500 --json""",
    "rebuild": f"""\
make a new catalogue from the images

For a catalogue.db that is damaged or lost. The old one is kept beside the new one.

--offline  use the images only, not the GDC's listing
{_JSON}

  tcgamirror --mirror tcga rebuild
  tcgamirror --mirror tcga rebuild --offline""",
    "schedule": """\
print a file that runs the nightly update

Changes nothing: the printed file says where it belongs.

SYSTEM            cron, systemd or slurm
--time HH:MM=02:15
    local time of day

for slurm:
--array N[%M]      fetch by N jobs, at most M at a time (default: one job in all)
--partition NAME   Slurm's partition (default: the cluster's)
--account NAME     Slurm's account (default: the user's)
--time-limit TIME  Slurm's limit of each job (default: 8h)

  tcgamirror --mirror tcga schedule cron --time 03:30
  tcgamirror --mirror tcga schedule systemd
  tcgamirror --mirror tcga schedule slurm > tcga.sbatch
  tcgamirror --mirror tcga schedule slurm --array 16 --partition transfer | sbatch""",
    "lock": """\
write a text file that names the sample, to cite it

init --lock makes a mirror of the same slides and images from it.

[FILE]   default: standard output
--check  print what differs from FILE

  tcgamirror --mirror tcga lock sample.lock
  tcgamirror --mirror again init --lock sample.lock
  tcgamirror --mirror again lock --check sample.lock""",
    "export": f"""\
write the mirror, or a part of it, to carry it elsewhere

Writes a directory, a .tar archive (also s3://BUCKET/NAME.tar), or a tar archive to
standard output. Every image is compared with its digest. An update may run meanwhile. An
interrupted export of a directory resumes when run again.

DEST            directory, .tar archive or object, or -
--only SQL      only slides that meet this condition on the view mirror
--since EXPORT  leave out the images of this earlier export (or of its SHA256SUMS)
{_JSON}

  tcgamirror --mirror tcga export tcga.tar
  tcgamirror --mirror tcga export - | zstd > tcga.tar.zst
  tcgamirror --mirror tcga export - | ssh there tcgamirror --mirror tcga import -
  tcgamirror --mirror tcga export lung --only "project_id = 'TCGA-LUAD' and status = 'done'"
  tcgamirror --mirror tcga export june.tar --since may.tar""",
    "import": f"""\
add an export to a mirror

Reads an export: a directory, a .tar archive (also s3://BUCKET/NAME.tar), or a tar archive
from standard input. The mirror of --mirror is made if it does not exist. An interrupted
import resumes when run again.

SRC       directory, .tar archive or object, or -
--decode  also decode every pixel of every new image
{_JSON}

  tcgamirror --mirror tcga import tcga.tar
  cat /media/stick/tcga.tar.part* | tcgamirror --mirror tcga import -
  zstd -dc tcga.tar.zst | tcgamirror --mirror tcga import -""",
    "sync": f"""\
bring the images of another mirror into one

Copies only what differs. SRC is a mirror's directory or the address of a web server that
publishes one. DST is a directory, which is made if it does not exist. Both may be places
in a bucket: s3://BUCKET/NAME, gs://... or az://... An interrupted sync resumes when run
again.

SRC           directory, http(s):// or s3:// address
DST           directory or s3:// address
--decode      also decode every pixel of every new image
--delete      remove images and rows that SRC does not have
--dry-run     print what would change; change nothing
--rate BYTES  limit of bytes per second, such as 5M (default: none)
{_JSON}

  tcgamirror sync tcga /media/stick/tcga
  tcgamirror sync http://server:8000/ tcga --rate 5M
  tcgamirror sync tcga /mnt/share/tcga --delete --dry-run
  tcgamirror sync tcga s3://bucket/tcga""",
    "gallery": """\
make pages that show the slides

Open DIR/gallery/index.html in a browser. Run it again after an update.

  tcgamirror --mirror tcga gallery""",
    "serve": """\
publish the mirror by HTTP, read-only

Serves images, a copy of the catalogue and the gallery, and nothing else of the directory.
There is no password. Ctrl-C stops it with exit code 130, SIGTERM with 0.

--host ADDRESS=127.0.0.1
    address to listen on; the default is this machine alone
--port N=8000
    port to listen on; 0 for any free one

  tcgamirror --mirror tcga serve
  tcgamirror --mirror tcga serve --host 0.0.0.0 --port 8080""",
    "get": f"""\
fetch images of single slides

SLIDE is a barcode, a file name or a file_id; a case's barcode means all of its open slides.
In a mirror they are looked up in its catalogue, and its target, format and servers are the
defaults. The mirror itself is not changed.

An image that is there already, of the same slide and resolution, is kept. Any other file is
only replaced with --force.

SLIDE...  barcode, file name or file_id
-o, --output PATH=./
    FILE.png, .jpg or .tif, or DIR/ for images with the slides' names
{_JSON}

images (default: that of the mirror, or --max-size 2048):
--mpp X        at exactly X µm per pixel
--max-size PX  halved until the longer side is at most PX pixels
--level N      the unchanged pixels of the pyramid's level N; 0 is the base
--resample exact|fast|native
    as for init (default: exact)
--format png|jpeg|tiff
    of images in DIR/ (default: png)
--force  replace existing files (default: see above)

fetching:
{_VIA}
{_ADDRESSES}

  tcgamirror get TCGA-3C-AALI-01Z-00-DX1 --mpp 0.5 -o slide.tif
  tcgamirror get TCGA-3C-AALI TCGA-3C-AALJ --max-size 2048 -o images/""",
    "help": """\
show the manual, or the help of a command

Without TOPIC, lists the manual's pages. TOPIC is a page or a command.

[TOPIC]  default: list the pages

  tcgamirror help
  tcgamirror help settings
  tcgamirror help update""",
    "doctor": f"""\
check this machine, the mirror and the network

Reads a little of everything and changes nothing. In a mirror it uses the mirror's
settings, elsewhere the addresses of the GDC. The report holds no passwords; attach it
when you ask for help.

--json         print one JSON object
--report FILE  write the report and the servers' raw answers to a new file, to send to the
               program's authors
{_ADDRESSES}

  tcgamirror doctor
  tcgamirror --mirror tcga doctor --json
  tcgamirror doctor --report report.txt""",
    "licenses": """\
print the licences of the included software

  tcgamirror licenses | less""",
    "completion": """\
print a script that completes commands in a shell

SHELL  bash, zsh or fish

  tcgamirror completion bash > ~/.local/share/bash-completion/completions/tcgamirror
  tcgamirror completion zsh > ~/.zfunc/_tcgamirror
  tcgamirror completion fish > ~/.config/fish/completions/tcgamirror.fish""",
}
"""Commands in the order of the program's help."""

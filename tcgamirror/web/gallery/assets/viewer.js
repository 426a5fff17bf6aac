/* One slide: its image with a scale bar, and all that the catalogue says of it. */
"use strict";

(() => {
  const PORTAL = "https://portal.gdc.cancer.gov/files/";
  const CASES = "https://api.gdc.cancer.gov/cases";
  const FILE_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
  const SHOWABLE = /\.(png|jpg)$/;
  const BAR_SHARE = 0.25;
  const GROUPS = [
    ["Slide", ["slide_barcode", "case_barcode", "file_name", "file_id", "former_ids", "project_id",
      "primary_site", "disease_type", "sample_type", "kind"]],
    ["Image", ["status", "error", "mpp_x", "mpp_y", "width", "height", "extent", "path", "bytes",
      "sha256"]],
    ["How it was got", ["source", "level", "level_downsample", "patched_tiles", "base_mpp",
      "mpp_source", "bytes_fetched", "seconds", "fetched_at", "attempts"]],
    ["Tissue", ["section_location", "percent_tumor_cells", "percent_tumor_nuclei",
      "percent_normal_cells", "percent_stromal_cells", "percent_necrosis",
      "percent_lymphocyte_infiltration", "percent_monocyte_infiltration",
      "percent_neutrophil_infiltration"]],
    ["Case", ["primary_diagnosis", "morphology", "tissue_or_organ_of_origin",
      "ajcc_pathologic_stage", "tumor_grade", "diagnoses", "age_at_diagnosis", "age_at_index",
      "gender", "race", "ethnicity", "vital_status", "days_to_death", "days_to_last_follow_up"]],
    ["At the GDC", ["upstream", "data_release", "md5", "size", "sample_rank"]],
  ];
  const LABELS = {
    file_id: "file_id", md5: "MD5 of the file", sha256: "SHA-256", mpp_x: "MPP, x", mpp_y: "MPP, y",
    base_mpp: "MPP of the base", mpp_source: "MPP is from", level_downsample: "downsample",
    patched_tiles: "tiles from finer levels",
    bytes_fetched: "moved", seconds: "time", sample_rank: "rank in the sample",
    size: "size of the file", bytes: "size", former_ids: "former file_ids", project_id: "project",
    case_barcode: "case", slide_barcode: "barcode", upstream: "state", attempts: "tries",
    percent_tumor_cells: "tumour cells", percent_tumor_nuclei: "tumour nuclei",
    percent_normal_cells: "normal cells", percent_stromal_cells: "stromal cells",
    percent_necrosis: "necrosis", percent_lymphocyte_infiltration: "lymphocytes",
    percent_monocyte_infiltration: "monocytes", percent_neutrophil_infiltration: "neutrophils",
    primary_diagnosis: "diagnosis", tissue_or_organ_of_origin: "origin",
    ajcc_pathologic_stage: "AJCC stage", tumor_grade: "grade", days_to_death: "death after",
    days_to_last_follow_up: "last follow-up after",
  };
  const UNITS = {
    mpp_x: "µm/px", mpp_y: "µm/px", base_mpp: "µm/px", width: "px", height: "px",
    bytes: "bytes", bytes_fetched: "bytes", size: "bytes", age_at_diagnosis: "days",
    age_at_index: "years", days_to_death: "days", days_to_last_follow_up: "days",
  };
  const CODES = new Set(["file_name", "file_id", "former_ids", "md5", "sha256", "path"]);
  const at = (id) => document.getElementById(id);
  let zoom = "fit";
  let shown = null;

  const positive = (value) => typeof value === "number" && Number.isFinite(value) && value > 0;

  /* The address of the image file, or null for a path that leads elsewhere. */
  function address(path) {
    const parts = typeof path === "string" ? path.split("/") : [];
    const plain = parts.every((part) => part && part !== "." && part !== "..");
    if (parts.length < 2 || parts[0] !== "images" || !plain) return null;
    return ["..", ...parts.map(encodeURIComponent)].join("/");
  }

  // The scale bar -------------------------------------------------------------------

  /* The longest of 1, 2 or 5 times a power of ten that is at most so many µm. */
  function round(most) {
    const power = 10 ** Math.floor(Math.log10(most));
    const times = [5, 2, 1].find((each) => each * power <= most * (1 + 1e-9)) ?? 1;
    return Number((times * power).toPrecision(1));
  }

  function inWords(length) {
    if (length >= 1000) return `${length / 1000} mm`;
    return length >= 1 ? `${length} µm` : `${Number((length * 1000).toPrecision(1))} nm`;
  }

  /* The bar's length is a share of the image's width, so that it stays right however the page,
     or a printer, scales both. Only which round length it has depends on the room there is. */
  function measure() {
    if (!shown) return;
    const room = Math.min(at("stage").clientWidth, at("pane").clientWidth);
    if (!shown.extent || !room) return;
    const length = round(shown.extent * (room / at("stage").clientWidth) * BAR_SHARE);
    at("bar").style.width = `${(length / shown.extent) * 100}%`;
    at("length").textContent = inWords(length);
    at("scale").ariaLabel = `Scale bar of ${inWords(length)}`;
    at("scale").dataset.micrometres = length;
  }

  function enlarge(to) {
    if (!shown) return;
    zoom = to;
    at("stage").classList.toggle("fit", to === "fit");
    at("stage").style.width = to === "fit" ? "" : `${shown.width * Number(to)}px`;
    // What scrolls has to be reached by keys; what does not is no stop on the way.
    if (to === "fit") at("pane").removeAttribute("tabindex");
    else at("pane").tabIndex = 0;
    document.querySelectorAll("[data-zoom]").forEach((button) => {
      button.ariaPressed = String(button.dataset.zoom === to);
    });
    measure();
  }

  // The image -----------------------------------------------------------------------

  function say(words) {
    at("said").textContent = words;
    at("said").hidden = !words;
  }

  function clear() {
    shown = null;
    say("");
    for (const id of ["image", "scale", "open"]) at(id).hidden = true;
    at("image").removeAttribute("src");
    document.querySelector(".zoom").hidden = true;
  }

  async function showImage(row, facts) {
    const file = address(facts.get("path"));
    if (!file) {
      say(facts.get("status") === "failed"
        ? `No image: ${facts.get("error") ?? "the reason is not known"}.`
        : "No image yet: the next update fetches it.");
      return;
    }
    at("open").href = file;
    at("open").hidden = false;
    document.querySelector(".zoom").hidden = false;
    if (SHOWABLE.test(file)) {
      place(row, facts, file);
      return;
    }
    const thumbnail = (await tcga.load("thumbnails", row)).get(facts.get("file_name"));
    if (thumbnail) place(row, facts, thumbnail, "Browsers do not show TIFF: this is its thumbnail.");
    else say("Browsers do not show TIFF, and the image has no thumbnail.");
  }

  function place(row, facts, source, note = "") {
    const image = at("image");
    image.onerror = () => {
      clear();
      say("The image file cannot be read: tcgamirror verify tells more.");
    };
    image.onload = () => loaded(row, facts, note);
    const site = facts.get("primary_site");
    image.alt = `${tcga.barcode(row)}${site ? `, ${site}` : ""}: the whole slide at low resolution`;
    image.src = source;
  }

  function loaded(row, facts, note) {
    const image = at("image");
    const width = facts.get("width");
    const height = facts.get("height");
    const mpp = facts.get("mpp_x");
    const whole = image.src.startsWith("data:");
    const same = whole || (image.naturalWidth === width && image.naturalHeight === height);
    image.hidden = false;
    const sized = positive(width) && positive(height);
    shown = {
      width: sized ? width : image.naturalWidth,
      extent: sized && same && positive(mpp) ? width * mpp : null,
    };
    at("stage").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    at("stage").style.setProperty("--width", `${shown.width}px`);
    at("scale").hidden = !shown.extent;
    const notes = [note];
    if (!same) notes.push("The image has another size than the catalogue says: no scale bar.");
    else if (!shown.extent) notes.push("No scale bar: the resolution of this slide is unknown.");
    if (facts.get("status") !== "done") {
      notes.push(`This is an earlier image: the slide is ${facts.get("status")} now.`);
    }
    say(notes.filter(Boolean).join(" "));
    enlarge(zoom);
  }

  // The facts -----------------------------------------------------------------------

  function inMillimetres(facts) {
    const [x, y] = [["width", "mpp_x"], ["height", "mpp_y"]].map(([pixels, mpp]) =>
      (positive(facts.get(pixels)) && positive(facts.get(mpp))
        ? facts.get(pixels) * facts.get(mpp) / 1000 : null));
    return x && y ? `${x.toFixed(2)} × ${y.toFixed(2)} mm` : null;
  }

  function worded(name, value) {
    if (value === null || value === undefined || value === "") {
      return name.startsWith("mpp_") || name === "base_mpp" ? "unknown" : null;
    }
    if (typeof value !== "number") return String(value);
    if (name.startsWith("percent_")) return `${tcga.rounded(value)} %`;
    if (name === "seconds") return `${tcga.rounded(value)} s`;
    const number = Number.isInteger(value) ? value.toLocaleString("en") : String(value);
    return UNITS[name] ? `${number} ${UNITS[name]}` : number;
  }

  function link(words, href) {
    const made = tcga.element("a", "out", words);
    made.href = href;
    made.rel = "noopener noreferrer external";
    return made;
  }

  function linked(facts) {
    const links = [];
    if (FILE_ID.test(facts.get("file_id") ?? "")) {
      links.push(link("File at the GDC portal", PORTAL + facts.get("file_id").toLowerCase()));
    }
    const barcode = facts.get("case_barcode");
    if (barcode) {
      // The portal knows cases by an id that listings of files do not keep; the API by barcode.
      const filter = { op: "=", content: { field: "submitter_id", value: barcode } };
      const query = new URLSearchParams({
        filters: JSON.stringify(filter), expand: "project,diagnoses,demographic", pretty: "true",
      });
      links.push(link("Case at the GDC (JSON)", `${CASES}?${query}`));
    }
    return links;
  }

  function section(title, names, facts) {
    const rows = names.map((name) => [name, worded(name, facts.get(name))]);
    const known = rows.filter(([, words]) => words !== null);
    const list = tcga.element("dl");
    for (const [name, words] of known) {
      const label = LABELS[name] ?? name.replaceAll("_", " ");
      list.append(tcga.element("dt", "", label), tcga.element("dd", CODES.has(name) ? "code" : "", words));
    }
    const made = tcga.element("div", "group");
    made.append(tcga.element("h2", "", title), list);
    return known.length ? made : "";
  }

  function showFacts(given) {
    const facts = new Map(given).set("extent", inMillimetres(given));
    const grouped = new Set(GROUPS.flatMap(([, names]) => names));
    const others = [...facts.keys()].filter((name) => !grouped.has(name));
    const links = tcga.element("p", "links");
    links.append(...linked(facts));
    at("facts").replaceChildren(links, ...[...GROUPS, ["More", others]].map(([title, names]) =>
      section(title, names, facts)));
  }

  // The page ------------------------------------------------------------------------

  function step(id, row, given) {
    const made = at(id);
    if (row === undefined) made.removeAttribute("href");
    else made.href = tcga.address("", given, { slide: tcga.value("file_name", row) });
  }

  function heading(row) {
    at("title").textContent = tcga.barcode(row);
    document.title = `${tcga.barcode(row)} · TCGA mirror`;
    const words = ["project_id", "primary_site", "kind"].map((name) => tcga.value(name, row));
    const status = tcga.value("status", row);
    const badge = tcga.element("span", `status ${status === "done" || status === "failed"
      ? status : "pending"}`, status);
    at("under").replaceChildren(
      ...words.filter(Boolean).map((word) => tcga.element("span", "", word)), badge);
  }

  async function show() {
    const given = tcga.asked();
    const name = given.get("slide");
    const { rows } = tcga.select(given);
    at("back").href = tcga.address("index.html", given, { slide: "" });
    clear();
    at("facts").replaceChildren();
    let place = rows.findIndex((row) => tcga.value("file_name", row) === name);
    let row = rows[place];
    if (row === undefined) {
      row = Array.from({ length: tcga.count }, (_, each) => each)
        .find((each) => tcga.value("file_name", each) === name);
      place = -2;
    }
    const number = (count) => count.toLocaleString("en");
    at("place").textContent = place < 0 ? "" : `${number(place + 1)} of ${number(rows.length)}`;
    step("before", rows[place - 1], given);
    step("after", rows[place + 1], given);
    if (row === undefined) {
      at("title").textContent = "No such slide";
      at("under").textContent = name ? `${name} is not in this mirror.` : "";
      return;
    }
    heading(row);
    const facts = (await tcga.load("facts", row)).get(name);
    if (tcga.asked().get("slide") !== name) return;
    if (!facts) {
      say("Its facts cannot be read: make the gallery again.");
      return;
    }
    showFacts(facts);
    await showImage(row, facts);
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const scrolls = document.activeElement === at("pane");
    if (event.key === "ArrowLeft" && !scrolls) at("before").click();
    else if (event.key === "ArrowRight" && !scrolls) at("after").click();
    else if (event.key === "0") enlarge("fit");
    else if (["1", "2", "4"].includes(event.key)) enlarge(event.key);
  }

  document.querySelectorAll("[data-zoom]").forEach((button) => {
    button.addEventListener("click", () => enlarge(button.dataset.zoom));
  });
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", () => {
    show();
    at("title").focus({ preventScroll: true });
  });
  new ResizeObserver(measure).observe(at("pane"));
  new ResizeObserver(measure).observe(at("stage"));
  show();
})();

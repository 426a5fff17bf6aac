/* What the pages share: the index, what is asked for in the address, and packs as they are needed. */
"use strict";

const tcga = (() => {
  const KEPT_PACKS = 60;
  const FILTERS = { project: "project_id", site: "primary_site", kind: "kind", status: "status" };
  const SEARCHED = ["project_id", "primary_site", "disease_type", "sample_type", "kind", "status",
    "source", "upstream", "error"];
  const UNKNOWN = "unknown";

  let data = null;
  let count = 0;
  let haystacks = null;
  let packOfRow = null;
  const packs = new Map();

  /* Called by index.js. */
  function index(given) {
    data = given;
    count = data.columns.file_name.length;
    packOfRow = new Uint32Array(count);
    let row = 0;
    data.packs.forEach(([, size], pack) => {
      packOfRow.fill(pack, row, row + size);
      row += size;
    });
  }

  /* The value of a column for a row; null where the catalogue knows none. */
  function value(column, row) {
    const given = data.columns[column][row];
    return column in data.words ? data.words[column][given] : given;
  }

  /* A value as a filter knows it: what is not known can be asked for too. */
  function named(column, row) {
    return String(value(column, row) ?? UNKNOWN);
  }

  function barcode(row) {
    return value("slide_barcode", row) ?? value("file_name", row);
  }

  /* What the address asks for: any of text, project, site, kind, status, label and its value,
     sort, page, slide. */
  function asked() {
    return new URLSearchParams(location.hash.slice(1));
  }

  function address(page, given, changes) {
    const all = new URLSearchParams(given);
    for (const [key, wanted] of Object.entries(changes)) {
      if (wanted === "" || wanted === null) all.delete(key);
      else all.set(key, wanted);
    }
    return `${page}#${all}`;
  }

  function haystack(row) {
    const words = SEARCHED.map((column) => value(column, row));
    words.push(value("file_name", row), value("file_id", row), value("slide_barcode", row));
    return words.join("\n").toLowerCase();
  }

  function matchesText(words) {
    if (!words.length) return () => true;
    haystacks ??= Array.from({ length: count }, (_, row) => haystack(row));
    return (row) => words.every((word) => haystacks[row].includes(word));
  }

  /* The columns to filter by: those of every slide, and the label asked for as `value`. */
  function filters(given) {
    const label = given.get("label");
    return data.labels.includes(label) ? { ...FILTERS, value: label } : FILTERS;
  }

  /* Rows that are as asked, in the order asked for, and how many of each word a filter would
     leave if it alone were changed. */
  function select(given) {
    const text = matchesText((given.get("text") ?? "").toLowerCase().split(/\s+/).filter(Boolean));
    const wanted = Object.entries(filters(given)).map(([name, column]) => [name, column, given.get(name)]);
    const counts = Object.fromEntries(wanted.map(([name]) => [name, new Map()]));
    const rows = [];
    for (let row = 0; row < count; row += 1) {
      if (!text(row)) continue;
      const missed = wanted.filter(([, column, word]) => word && named(column, row) !== word);
      if (!missed.length) rows.push(row);
      if (missed.length > 1) continue;
      for (const [name, column] of missed.length ? missed : wanted) {
        const word = named(column, row);
        counts[name].set(word, (counts[name].get(word) ?? 0) + 1);
      }
    }
    return { rows: sorted(rows, given.get("sort")), counts };
  }

  function sorted(rows, order) {
    const by = (key) => {
      const keys = new Map(rows.map((row) => [row, key(row)]));
      const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      return rows.sort((a, b) => compare(keys.get(a), keys.get(b)) || a - b);
    };
    if (order === "barcode") return by(barcode);
    if (order === "rank") return by((row) => value("sample_rank", row));
    if (order === "finest") return by((row) => value("mpp_x", row) ?? Infinity);
    if (order === "newest") return by((row) => value("fetched_at", row) ?? "").reverse();
    return rows;
  }

  /* Packs of facts or thumbnails, by the name of the slide. Loaded as scripts, which alone a
     page opened from disk may do. */
  function load(kind, row) {
    const name = data.packs[packOfRow[row]][0];
    const key = `${kind}/${name}`;
    let pack = packs.get(key);
    if (!pack) {
      pack = {};
      pack.ready = new Promise((resolve) => {
        pack.resolve = resolve;
        const script = document.createElement("script");
        script.src = `${key}.js`;
        script.onload = script.onerror = () => {
          script.remove();
          resolve(new Map());
        };
        document.head.append(script);
      });
    }
    packs.delete(key);
    packs.set(key, pack);
    if (packs.size > KEPT_PACKS) packs.delete(packs.keys().next().value);
    return pack.ready;
  }

  /* Called by thumbnails/….js. */
  function thumbnails(name, rows) {
    const found = new Map(rows.map(([slide, , image]) => [slide, `data:image/jpeg;base64,${image}`]));
    packs.get(`thumbnails/${name}`)?.resolve(found);
  }

  /* Called by facts/….js. */
  function facts(name, columns, rows) {
    const place = columns.indexOf("file_name");
    const found = new Map(rows.map((row) => [
      row[place],
      new Map(columns.map((column, at) => [column, row[at]])),
    ]));
    packs.get(`facts/${name}`)?.resolve(found);
  }

  function mpp(given) {
    return given === null ? "MPP unknown" : `${rounded(given)} µm/px`;
  }

  /* Four digits are enough to read; the facts have them all. */
  function rounded(number) {
    return String(Number(number.toPrecision(4)));
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /* The address is what is asked for: the link must not take its place. */
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".skip")) return;
    event.preventDefault();
    document.getElementById("main").focus();
  });

  return {
    index, thumbnails, facts, value, named, barcode, asked, address, select, load, mpp, rounded,
    element, FILTERS, get count() { return count; }, get labels() { return data.labels; },
  };
})();

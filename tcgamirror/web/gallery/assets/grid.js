/* The grid: filters, pages, cards whose thumbnails come when they are about to be seen. */
"use strict";

(() => {
  const PAGE = 200;
  const TYPING = 150;
  const at = (id) => document.getElementById(id);
  const form = document.querySelector("form");
  const lists = Object.keys(tcga.FILTERS);
  let waiting = 0;

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      showThumbnail(entry.target);
    }
  }, { rootMargin: "300px" });

  async function showThumbnail(card) {
    const row = Number(card.dataset.row);
    const found = await tcga.load("thumbnails", row);
    const source = found.get(tcga.value("file_name", row));
    const image = card.querySelector("img");
    const none = card.querySelector(".none");
    if (!source) {
      const done = tcga.value("status", row) === "done";
      none.textContent = done ? "no thumbnail" : "no image";
      return;
    }
    image.src = source;
    image.alt = `Thumbnail of ${tcga.barcode(row)}`;
    image.hidden = false;
    none.hidden = true;
  }

  function card(row, given) {
    const item = at("card").content.firstElementChild.cloneNode(true);
    const link = item.firstElementChild;
    const part = (name) => link.querySelector(`.${name}`);
    link.href = tcga.address("slide.html", given, { slide: tcga.value("file_name", row) });
    link.dataset.row = row;
    part("name").textContent = tcga.barcode(row);
    part("project").textContent = tcga.named("project_id", row);
    const status = tcga.value("status", row);
    part("status").textContent = status;
    part("status").classList.add(status === "done" || status === "failed" ? status : "pending");
    part("source").textContent = tcga.value("source", row) ?? "";
    if (status === "done") part("mpp").textContent = tcga.mpp(tcga.value("mpp_x", row));
    seen.observe(link);
    return item;
  }

  /* The words of a filter, each with the number of slides it would leave. */
  function fill(list, wanted, counts) {
    const words = [...counts.keys()];
    if (wanted && !counts.has(wanted)) words.push(wanted);
    words.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const all = new Option("any", "");
    list.replaceChildren(all, ...words.map((word) =>
      new Option(`${word} (${(counts.get(word) ?? 0).toLocaleString("en")})`, word)));
    list.value = wanted;
  }

  /* The labels to choose from, if there are any, and the values of the one chosen. */
  function fillLabels(given, counts) {
    const label = tcga.labels.includes(given.get("label")) ? given.get("label") : "";
    const options = tcga.labels.map((name) => new Option(name.replaceAll("_", " "), name));
    at("label").replaceChildren(new Option("none", ""), ...options);
    at("label").value = label;
    at("label").parentElement.hidden = !tcga.labels.length;
    at("value").parentElement.hidden = !label;
    fill(at("value"), given.get("value") ?? "", counts.value ?? new Map());
  }

  function pager(nav, page, pages, given) {
    const link = (words, to, label) => {
      const there = to >= 1 && to <= pages && to !== page;
      const made = tcga.element(there ? "a" : "span", "", words);
      if (there) {
        made.href = tcga.address("", given, { page: to === 1 ? "" : to });
        made.dataset.turn = "";
      } else {
        made.ariaDisabled = "true";
      }
      made.ariaLabel = label;
      return made;
    };
    nav.hidden = pages < 2;
    nav.replaceChildren(
      link("«", 1, "First page"), link("‹ Previous", page - 1, "Previous page"),
      tcga.element("span", "here", `${page} of ${pages}`),
      link("Next ›", page + 1, "Next page"), link("»", pages, "Last page"),
    );
  }

  function words(found, first, shown) {
    const number = (count) => count.toLocaleString("en");
    const slides = `${number(tcga.count)} slide${tcga.count === 1 ? "" : "s"}`;
    const all = found === tcga.count ? slides : `${number(found)} of ${slides}`;
    return shown < found ? `${all}, ${number(first + 1)} to ${number(first + shown)} shown` : all;
  }

  function show() {
    const given = tcga.asked();
    given.delete("slide");
    const { rows, counts } = tcga.select(given);
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    const page = Math.min(Math.max(1, Math.trunc(Number(given.get("page"))) || 1), pages);
    const first = (page - 1) * PAGE;
    const shown = rows.slice(first, first + PAGE);
    seen.disconnect();
    at("grid").replaceChildren(...shown.map((row) => card(row, given)));
    for (const name of lists) fill(at(name), given.get(name) ?? "", counts[name]);
    fillLabels(given, counts);
    if (at("text") !== document.activeElement) at("text").value = given.get("text") ?? "";
    at("sort").value = given.get("sort") ?? "";
    at("count").textContent = words(rows.length, first, shown.length);
    at("empty").hidden = rows.length > 0;
    document.querySelectorAll(".pager").forEach((nav) => pager(nav, page, pages, given));
  }

  function change(changes) {
    location.replace(tcga.address("", tcga.asked(), { ...changes, page: "" }));
  }

  function typed() {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ text: at("text").value.trim() }), TYPING);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    at("text").value = "";
    location.replace("#");
  });
  at("text").addEventListener("input", typed);
  for (const name of [...lists, "value", "sort"]) {
    at(name).addEventListener("change", (event) => change({ [name]: event.target.value }));
  }
  at("label").addEventListener("change", (event) => change({ label: event.target.value, value: "" }));
  document.addEventListener("click", (event) => {
    if (!("turn" in (event.target.dataset ?? {}))) return;
    at("main").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select")) return;
    event.preventDefault();
    at("text").select();
  });
  window.addEventListener("hashchange", show);
  show();
})();

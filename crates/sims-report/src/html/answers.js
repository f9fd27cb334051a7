// Filters of the answers. State lives in the form and in the page's fragment: #answers&q=word&change=worsened
"use strict";
(() => {
  const form = document.getElementById("filters");
  const table = document.getElementById("answer-table");
  if (!form || !table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows).map((element, place) => ({
    element,
    place,
    text: element.textContent.toLowerCase(),
    round: element.dataset.round,
    change: element.dataset.change,
    difference: "difference" in element.dataset ? Number(element.dataset.difference) : null,
  }));
  const fields = ["q", "round", "change", "sort"];

  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const name of fields) {
      const field = form.elements[name];
      if (!wanted.has(name)) continue;
      const value = wanted.get(name);
      if (name === "q" || Array.from(field.options).some((option) => option.value === value)) field.value = value;
    }
  };

  const show = () => {
    const [words, round, change, sort] = fields.map((name) => form.elements[name].value);
    const sought = words.toLowerCase().split(/\s+/).filter(Boolean);
    const sign = sort === "best" ? -1 : 1;
    const order = (a, b) => {
      if (sort === "" || a.difference === b.difference) return a.place - b.place;
      if (a.difference === null || b.difference === null) return a.difference === null ? 1 : -1;
      return sign * (a.difference - b.difference);
    };
    let count = 0;
    for (const row of [...rows].sort(order)) {
      const shown =
        (round === "" || row.round === round) &&
        (change === "" || row.change === change) &&
        sought.every((word) => row.text.includes(word));
      row.element.hidden = !shown;
      if (shown) count += 1;
      body.append(row.element);
    }
    form.elements.count.value = count === 1 ? "1 answer" : `${count} answers`;
  };

  const keep = () => {
    const state = new URLSearchParams();
    for (const name of fields) {
      const field = form.elements[name];
      const usual = name === "q" ? "" : Array.from(field.options).find((option) => option.defaultSelected)?.value ?? "";
      if (field.value !== usual) state.set(name, field.value);
    }
    const text = state.toString();
    history.replaceState(null, "", text === "" ? "#answers" : `#answers&${text}`);
  };

  form.hidden = false;
  form.addEventListener("input", () => {
    show();
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => {
    read();
    show();
  });
  read();
  show();
  if (location.hash.startsWith("#answers")) document.getElementById("answers").scrollIntoView();
})();

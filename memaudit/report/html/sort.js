"use strict";
(() => {
  document.documentElement.classList.add("sortable");
  const status = document.getElementById("sorted-by");
  const valueOf = (text) => {
    if (text === "∞") return Infinity;
    return text.trim() === "" ? NaN : Number(text);
  };
  const byNumber = (a, b) => Math.sign(valueOf(a) - valueOf(b)) || 0;
  const words = new Intl.Collator("en", { numeric: true });
  for (const button of document.querySelectorAll("#samples th button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const body = head.closest("table").tBodies[0];
      const numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numeric;
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const place = head.cellIndex;
      const keyed = Array.from(body.rows, (row) => [row.cells[place].textContent, row]);
      const missing = (text) => numeric && Number.isNaN(valueOf(text));
      keyed.sort(([a], [b]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = numeric ? byNumber(a, b) : words.compare(a, b);
        return up ? order : -order;
      });
      body.append(...keyed.map(([, row]) => row));
      status.textContent = `Sorted by ${button.textContent}, ${up ? "ascending" : "descending"}.`;
    });
  }
})();

"use strict";
// Sort the table of recordings by a click on a heading.
for (const heading of document.querySelectorAll("th button")) {
  heading.addEventListener("click", () => {
    const cell = heading.closest("th");
    const column = cell.cellIndex;
    const body = cell.closest("table").tBodies[0];
    const down = cell.getAttribute("aria-sort") === "ascending";
    for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) =>
      key(a).localeCompare(key(b), undefined, { numeric: true }) || a.rowIndex - b.rowIndex);
    if (down) rows.reverse();
    body.append(...rows);
  });
}

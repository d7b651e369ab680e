// Sorts a table by the column whose head is pressed; without it the page lacks nothing else.
for (const head of document.querySelectorAll("table thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const numbers = head.className === "number";
    // Numbers begin with the highest, names with A.
    const sorted = head.getAttribute("aria-sort");
    const rising = numbers ? sorted === "descending" : sorted !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const cell = (row) => row.cells[head.cellIndex];
    const compare = (a, b) =>
      numbers
        ? Number(cell(a).dataset.value ?? -1) - Number(cell(b).dataset.value ?? -1)
        : cell(a).textContent.localeCompare(cell(b).textContent);
    const rows = [...body.rows].sort(compare);
    body.append(...(rising ? rows : rows.reverse()));
  });
}

"use strict";
const filter = document.getElementById("filter");
const searched = [...document.querySelectorAll("[data-search]")];
const groups = [...document.querySelectorAll("[data-group]")];
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const element of searched) {
    element.hidden = !words.every((word) => element.dataset.search.includes(word));
  }
  for (const group of groups) {
    group.hidden = !group.querySelector("[data-search]:not([hidden])");
  }
  document.getElementById("nothing").style.display = groups.every((group) => group.hidden) ? "block" : "none";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== filter) {
    event.preventDefault();
    filter.focus();
  }
});

// The box that finds sliders: it hides the others and opens the folds that hold what was found. Gradio hands in `element`,
// `props` and `watch`. Sliders in a closed fold are not on the page yet, so they are hidden by a style sheet.
const box = element.querySelector("input");
const said = element.querySelector(".said");
const sheet = document.head.appendChild(document.createElement("style"));
const opened = new Set(); // folds that were opened for what was found; they close again, unless they were used

const head = (fold) => document.querySelector(`#${fold} > button.label-wrap`);
const turn = (fold, open) => {
  const button = head(fold);
  if (!button || button.classList.contains("open") === open) return;
  button.click();
  if (open) opened.add(fold);
};
const wanted = () => box.value.toLowerCase().split(/\s+/).filter(Boolean);
const matches = () => {
  const parts = wanted();
  return props.value.filter((edit) => parts.every((part) => edit.text.includes(part)));
};
const find = () => {
  const all = props.value;
  const searching = wanted().length > 0;
  const found = matches();
  const full = new Set(found.map((edit) => edit.fold));
  const hidden = searching
    ? [
        ...all.filter((edit) => !found.includes(edit)).map((edit) => edit.place),
        ...[...document.querySelectorAll(".edit-group")].map((fold) => fold.id).filter((fold) => !full.has(fold)),
      ]
    : [];
  sheet.textContent = hidden.length ? hidden.map((place) => "#" + place).join() + "{display:none !important}" : "";
  if (searching) {
    for (const fold of full) turn(fold, true);
    said.textContent = found.length ? `${found.length} of ${all.length}` : "No edit found";
  } else {
    for (const fold of opened) turn(fold, false);
    opened.clear();
    said.textContent = "";
  }
};
box.addEventListener("input", find);
watch("value", find);
document.addEventListener("input", (event) => {
  if (event.target.closest(".edit-slider")) opened.delete(event.target.closest(".edit-group")?.id);
});

// Enter or the arrow down lead to the first slider found, Escape back to all.
const go = (patience = 20) => {
  const place = matches()[0]?.place;
  const slider = place && document.querySelector(`#${place} input[type=range]`);
  if (!slider) {
    if (place && patience) requestAnimationFrame(() => go(patience - 1)); // its fold is opening
    return;
  }
  slider.focus({ preventScroll: true });
  const phone = matchMedia("(max-width: 768px)").matches; // there the picture covers the upper half
  document.querySelector("#" + place).scrollIntoView({ block: phone ? "end" : "nearest" });
};
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "ArrowDown") {
    event.preventDefault();
    go();
  } else if (event.key === "Escape" && box.value) {
    event.preventDefault();
    box.value = "";
    find();
  }
});

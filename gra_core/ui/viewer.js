// The before/after viewer. Gradio hands in `element`, `props` and `watch`.
const find = (name) => element.querySelector("." + name);
const frame = find("frame");
const divider = find("divider");
const hold = find("hold");

// A label stands only where its side of the line has room for it.
const split = () => {
  frame.style.setProperty("--split", divider.value + "%");
  const line = (divider.value / 100) * frame.clientWidth;
  const [left, right] = [find("left"), find("right")];
  left.classList.toggle("out", line < left.offsetLeft + left.offsetWidth + 4);
  right.classList.toggle("out", line > right.offsetLeft - 4);
};
divider.addEventListener("input", split);
new ResizeObserver(split).observe(frame);

// On a phone the picture covers the upper part of the page: how much of it, for what stays in sight below.
const stage = element.closest("#stage-picture");
new ResizeObserver(() => document.body.style.setProperty("--covered", stage.offsetHeight + "px")).observe(stage);

const peek = (on) => () => {
  frame.classList.toggle("peek", on);
  hold.setAttribute("aria-pressed", on);
};
hold.setAttribute("aria-pressed", "false");
hold.addEventListener("pointerdown", peek(true));
for (const end of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) hold.addEventListener(end, peek(false));
hold.addEventListener("keydown", (event) => {
  if (event.key === " " || event.key === "Enter") peek(true)();
});
hold.addEventListener("contextmenu", (event) => event.preventDefault());

find("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else find("viewer").requestFullscreen();
});

// A picture replaces the one before only when it can be drawn at once: nothing flickers, nothing jumps.
const loaded = async (name, url) => {
  const old = find(name);
  if (old.src === url) return old;
  const picture = Object.assign(old.cloneNode(), { src: url });
  await picture.decode();
  return picture;
};
let newest = 0;
const show = async () => {
  const ticket = ++newest;
  const value = props.value;
  if (!value || !value.after) {
    for (const name of ["before", "after"]) find(name).removeAttribute("src");
    return;
  }
  try {
    const pictures = await Promise.all(["before", "after"].map((name) => loaded(name, value[name].url)));
    if (ticket !== newest) return;
    frame.classList.remove("waiting");
    frame.style.setProperty("--shape", pictures[1].naturalWidth / pictures[1].naturalHeight);
    for (const picture of pictures) find(picture.className).replaceWith(picture);
    frame.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
  } catch {
    // The file is gone already: a newer picture is on its way.
  }
};
let patience;
document.addEventListener("input", (event) => {
  if (!event.target.closest(".edit-slider")) return;
  frame.classList.add("waiting");
  clearTimeout(patience); // a place that changes nothing brings no picture
  patience = setTimeout(() => frame.classList.remove("waiting"), 4000);
});
watch("value", show);
show();

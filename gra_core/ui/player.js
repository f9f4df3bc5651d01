// Shows an animation: a picture, or a video that starts by itself and repeats. Gradio hands in `element`, `props`, `watch`.
const show = () => {
  const file = props.value;
  const place = element.querySelector(".player");
  if (!file || !file.url) {
    place.replaceChildren();
    return;
  }
  const video = file.orig_name.endsWith(".mp4");
  const shown = document.createElement(video ? "video" : "img");
  if (video) Object.assign(shown, { autoplay: true, loop: true, muted: true, playsInline: true, controls: true });
  shown.setAttribute(video ? "aria-label" : "alt", "The animation");
  shown.src = file.url;
  place.replaceChildren(shown);
};
watch("value", show);
show();

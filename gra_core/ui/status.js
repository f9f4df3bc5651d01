// The line that says what is going on: `away` while it is scrolled out of sight. Gradio hands in `element`.
const line = element.closest("#status") ?? element;
new IntersectionObserver(([seen]) => line.classList.toggle("away", seen.intersectionRatio < 0.5), {
  threshold: [0, 0.5, 1],
}).observe(line);

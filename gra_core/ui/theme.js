// Gradio's dark look is a class of the body; it starts with what was chosen here before, else the system's preference.
const look = document.body.classList;
const chosen = localStorage.getItem("look");
if (chosen) look.toggle("dark", chosen === "dark");
element.querySelector("button").addEventListener("click", () => {
  localStorage.setItem("look", look.toggle("dark") ? "dark" : "light");
});

// Gradio's dark look is a class of the body; the system's preference is what it starts with.
element.querySelector("button").addEventListener("click", () => document.body.classList.toggle("dark"));

// A row of buttons, one of which may be marked as chosen. Gradio hands in `element`, `props`, `watch` and `trigger`.
const draw = () => {
  const row = element.querySelector(".picker");
  const value = props.value || { items: [] };
  row.replaceChildren(
    ...value.items.map((item, index) => {
      const button = document.createElement("button");
      button.type = "button";
      if (item.picture) {
        const picture = document.createElement("img");
        picture.src = item.picture;
        picture.alt = item.label;
        button.append(picture);
      } else {
        button.textContent = item.label;
      }
      if (value.chosen !== null) button.setAttribute("aria-pressed", String(index === value.chosen));
      button.addEventListener("click", () => trigger("select", { index, value: item.label }));
      return button;
    })
  );
};
watch("value", draw);
draw();

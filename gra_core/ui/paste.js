() => {
  window.addEventListener("paste", (event) => {
    const photo = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
    const input = document.querySelector("#upload input[type=file]");
    if (!photo || !input) return;
    const files = new DataTransfer();
    files.items.add(photo);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

() => {
  // Many browsers know HEIC and others by their names only, and Gradio takes nothing but image/*.
  const kinds = { avif: "avif", bmp: "bmp", heic: "heic", heif: "heif", jpeg: "jpeg", jpg: "jpeg", png: "png", tif: "tiff", tiff: "tiff", webp: "webp" };
  const known = (file) => {
    const kind = kinds[file.name.split(".").pop().toLowerCase()];
    return file.type.startsWith("image/") || !kind ? file : new File([file], file.name, { type: "image/" + kind });
  };
  const inputOf = (place) => place?.querySelector("input[type=file]");
  const put = (input, file) => {
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
  };
  const open = (input, file) => {
    put(input, file);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  window.addEventListener("paste", (event) => {
    const photo = [...(event.clipboardData?.files ?? [])].map(known).find((file) => file.type.startsWith("image/"));
    const input = inputOf(document.querySelector("#upload"));
    if (photo && input) open(input, photo);
  });
  // These run before Gradio's own handlers.
  const first = (kind, handler) =>
    document.addEventListener(
      kind,
      (event) => {
        const input = inputOf(event.target.closest?.("#upload"));
        if (input) handler(event, input);
      },
      true
    );
  first("click", (_, input) => (input.accept = "image/*,.heic,.heif,.avif"));
  first("change", (event, input) => {
    const file = event.target === input && input.files[0];
    if (file && known(file) !== file) put(input, known(file));
  });
  first("drop", (event, input) => {
    const file = event.dataTransfer?.files[0];
    if (!file || known(file) === file) return;
    event.preventDefault();
    event.stopPropagation();
    open(input, known(file));
  });
}

(file) => {
  if (!file || !file.url) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name || "portrait.png";
  document.body.appendChild(link);
  link.click();
  link.remove();
}

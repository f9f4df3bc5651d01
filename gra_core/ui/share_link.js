(query) => {
  const address = window.location.origin + window.location.pathname + (query ? "?" + query : "");
  if (navigator.clipboard) navigator.clipboard.writeText(address).catch(() => {});
  return address;
}

// What pages gain from scripts; everything works without: copy buttons, confirmation in a dialog, filtering of rows.

function showCopyButtons(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const label = button.textContent;
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }
}

// A link to a page that asks for confirmation: its question is shown here, in a dialog, instead.
async function confirmHere(link) {
  const response = await fetch(link.href, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const question = page.getElementById("confirm");
  if (!response.ok || !question) {
    location.assign(link.href);
    return;
  }
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "confirm-title");
  dialog.append(document.adoptNode(question));
  document.body.append(dialog);
  dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
  dialog.querySelector("[data-close]")?.addEventListener("click", (event) => {
    event.preventDefault();
    dialog.close();
  });
  dialog.showModal();
}

for (const link of document.querySelectorAll("a[data-confirm]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    confirmHere(link).catch(() => location.assign(link.href));
  });
}

for (const filter of document.querySelectorAll("[data-filters]")) {
  const table = document.getElementById(filter.dataset.filters);
  if (!table) continue;
  filter.hidden = false;
  filter.querySelector("input").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}

// A part of the page that is loaded again every few seconds, until the new one no longer asks for it.
function refreshLater(part) {
  setTimeout(async () => {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (response?.redirected) return location.reload(); // the session has ended
    const page = response?.ok && new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page && page.getElementById(part.id);
    if (!fresh || document.hidden || part.contains(document.activeElement)) return refreshLater(part);
    part.replaceWith(document.adoptNode(fresh));
    if (fresh.dataset.refresh) refreshLater(fresh);
  }, part.dataset.refresh * 1000);
}

for (const part of document.querySelectorAll("[data-refresh]")) refreshLater(part);

showCopyButtons(document);

// The report: the sound lies in the page itself, which may still be arriving.
{
  const parsed = new Promise((done) => {
    if (document.readyState !== "loading") done();
    else document.addEventListener("DOMContentLoaded", done, { once: true });
  });
  const bytes = async (track, index) => {
    await parsed;
    return deepsepPlayer.unpack(document.getElementById(`sound-${track}-${index}`).textContent);
  };
  const data = JSON.parse(document.getElementById("data").textContent);
  window.deepsep = deepsepPlayer(document.body, data, { bytes, ready: () => true }); // for scripts and tests
}

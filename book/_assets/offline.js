// Runs in the head of every page, before MathJax, FontAwesome and the widget manager start.

// FontAwesome would replace the <i> elements of widget buttons under the feet of the code that
// made them, and the Play widget would lose its buttons: let it draw inside them instead.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };

// The widget manager asks MathJax 2 to typeset labels. Pages have MathJax 3, or none.
if (window.MathJax) {
  let typeset;
  const hub = { Queue: ([, , node]) => { pending = pending.then(() => typeset([node])); } };
  let pending = new Promise((loaded) => {
    window.MathJax.startup = {
      ready() {
        window.MathJax.startup.defaultReady();
        window.MathJax.Hub = hub;
        typeset = (nodes) => window.MathJax.typesetPromise(nodes);
        window.MathJax.startup.promise.then(loaded);
      },
    };
  });
  window.MathJax.Hub = hub; // for widgets that are drawn before MathJax has come
}

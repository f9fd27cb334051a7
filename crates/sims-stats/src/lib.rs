//! Statistics of the loop: bootstrap, win rates, Bradley-Terry, agreement
